use std::time::{Duration, SystemTime};

use contracts::proto::payments::v1::PaymentState;
use oncelog::{
    inbox::dead_letters,
    testing::{publish, read_until},
};
use tonic::Code;

use crate::harness::{SERVICE, TOPIC, World, order_created, order_created_at};

const CHARGED: i64 = 500;
const DECLINED: i64 = 4001;
const SLOW: i64 = 5001;
const FAILS_AT_FIRST: i64 = 5002;
const ANSWER_LOST: i64 = 5003;
const CONTRADICTED: i64 = 5005;

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_charged_once_and_each_step_is_published() {
    let world = World::new();
    let service = world.start().await;
    let (order, record) = order_created(CHARGED);
    publish(&world.broker, &[record.clone(), record]);
    let payment = service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
    assert_eq!((payment.amount, payment.currency_code.as_str()), (CHARGED, "USD"));
    assert!(!payment.gateway_reference.is_empty());
    assert_eq!(world.charges(order), 1);
    let records = read_until(&world.broker, TOPIC, |records| records.len() >= 2);
    let types: Vec<_> = records.iter().map(|record| record.header("ce_type").expect("there")).collect();
    assert_eq!(types, ["payments.events.v1.PaymentRequested", "payments.events.v1.PaymentCompleted"]);
    assert!(records.iter().all(|record| record.key.as_deref() == Some(order.to_string().as_bytes())));
    assert!(records[0].header("ce_causationid").is_some(), "the header has the id of the order's event");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_card_fails_the_payment_with_its_code() {
    let world = World::new();
    let service = world.start().await;
    let order = world.order(&[DECLINED])[0];
    let payment = service.payment_until(order, |payment| payment.state() == PaymentState::Failed).await;
    let failure = payment.failure.expect("a failure");
    assert_eq!((failure.code.as_str(), failure.message.is_empty()), ("CARD_DECLINED", false));
    assert_eq!(world.charges(order), 0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_is_made_again_and_the_order_charged_once() {
    let world = World::new();
    let service = world.start().await;
    let orders = world.order(&[FAILS_AT_FIRST, ANSWER_LOST, CONTRADICTED]);
    let failing = service.payment_until(orders[0], |payment| payment.failed_attempts > 0).await;
    assert!(failing.next_attempt_time.is_some());
    for order in orders {
        service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
        assert_eq!(world.charges(order), 1);
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_payment_holds_up_nobody() {
    let world = World::new();
    let service = world.start().await;
    let mut amounts = vec![SLOW; 20];
    amounts.extend([CHARGED; 20]);
    let orders = world.order(&amounts);
    for order in &orders[20..] {
        service.payment_until(*order, |payment| payment.state() == PaymentState::Completed).await;
    }
    for order in &orders[..20] {
        let payment = service.payment(&order.to_string()).await.expect("known");
        assert_eq!(payment.state(), PaymentState::Requested, "the slow payments delayed the others");
    }
    service.stop().await;
}

/// The service stops while calls are in flight. Whatever their outcome was, the next start settles each one once.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_calls_under_way_forgets_none_and_charges_none_twice() {
    let mut world = World::new();
    world.gateway_latency = Duration::from_secs(3600);
    let service = world.start().await;
    let orders = world.order(&[CHARGED, CHARGED, ANSWER_LOST, DECLINED]);
    for order in &orders {
        service.payment_until(*order, |payment| payment.state() == PaymentState::Requested).await;
    }
    service.stop().await;

    world.gateway_latency = Duration::from_millis(20);
    let service = world.start().await;
    let orders_after = world.order(&[CHARGED]);
    for order in &orders {
        service.payment_until(*order, |payment| payment.state() != PaymentState::Requested).await;
    }
    service.payment_until(orders_after[0], |payment| payment.state() == PaymentState::Completed).await;
    service.stop().await;
    let charged: Vec<_> = orders.iter().map(|order| world.charges(*order)).collect();
    assert_eq!(charged, [1, 1, 1, 0]);
}

/// The gateway has forgotten the key when the call is repeated. So the charge is looked up before it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn a_charge_whose_key_is_forgotten_is_found_and_not_made_again() {
    let mut world = World::new();
    world.gateway_key_memory = Duration::ZERO;
    let service = world.start().await;
    let order = world.order(&[ANSWER_LOST])[0];
    service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
    assert_eq!(world.charges(order), 1);
    service.stop().await;
}

/// A restored store consumes orders again that were charged long ago. The age of the order counts, not the store's.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_reads_of_an_old_order_again_asks_the_gateway_before_it_charges() {
    let mut world = World::new();
    world.gateway_key_memory = Duration::from_millis(600);
    let service = world.start().await;
    let (order, record) = order_created_at(SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60), CHARGED);
    publish(&world.broker, &[record]);
    service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
    let lost = service.0.store.id();
    service.stop().await;
    world.lose_the_store();
    tokio::time::sleep(world.gateway_key_memory).await; // the gateway forgets the key
    let service = world.start_in_place_of(Some(lost)).await;
    service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
    assert_eq!(world.charges(order), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_order_is_dead_lettered_and_the_next_one_is_paid() {
    let world = World::new();
    let service = world.start().await;
    let (_, no_amount) = order_created(0);
    let (_, mut garbage) = order_created(CHARGED);
    garbage.value = Some(b"\xff".to_vec());
    let (order, good) = order_created(CHARGED);
    publish(&world.broker, &[no_amount, garbage, good]);
    service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
    let letters = read_until(&world.broker, &dead_letters::topic_of(SERVICE), |letters| letters.len() >= 2);
    let mut reasons: Vec<_> = letters.iter().filter_map(|letter| letter.header("dead_letter_reason")).collect();
    reasons.sort_unstable();
    assert!(reasons[0].starts_with("field order_created: amount must be at least 1"), "{reasons:?}");
    assert!(reasons[1].starts_with("the value is not a valid message"), "{reasons:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_not_there_or_has_no_id_is_an_error() {
    let world = World::new();
    let service = world.start().await;
    assert_eq!(service.payment("x").await.expect_err("refused").code(), Code::InvalidArgument);
    let unknown = service.payment("01a20859-c427-7384-b47b-d18ff68dd444").await;
    assert_eq!(unknown.expect_err("refused").code(), Code::NotFound);
    service.stop().await;
}
