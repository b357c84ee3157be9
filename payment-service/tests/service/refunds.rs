//! Tests of cancelled orders, and of payments that need a person.

use std::time::Duration;

use contracts::proto::payments::v1::{
    ListPaymentsRequest, Payment, PaymentState, SettlePaymentRequest,
    settle_payment_request::{Charged, NotCharged, Outcome, Refunded},
};
use oncelog::{
    event::StreamId,
    testing::{publish, read_until},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::{Service, TOPIC, World, order_cancelled, order_created};

const CHARGED: i64 = 500;
const DECLINED: i64 = 4001;
const SLOW: i64 = 5001;
const FAILS_AT_FIRST: i64 = 5002;
const ANSWER_LOST: i64 = 5003;
const FORGOTTEN: i64 = 5004;
const REFUND_REFUSED: i64 = 6001;
const REFUNDS_ANSWER_LOST: i64 = 6002;
const REFUND_FAILS_AT_FIRST: i64 = 6003;

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_is_given_back_once_or_never_charged() {
    let world = World::new();
    let service = world.start().await;
    let orders = world.order(&[CHARGED, REFUNDS_ANSWER_LOST, REFUND_FAILS_AT_FIRST, DECLINED]);
    for order in &orders {
        service.payment_until(*order, |payment| payment.state() != PaymentState::Requested).await;
    }
    // Uncertain payments: a call in flight, failed calls, and a charge without an answer.
    let uncertain = world.order(&[SLOW, FAILS_AT_FIRST, ANSWER_LOST]);
    service.payment_until(uncertain[0], |_| true).await;
    service.payment_until(uncertain[1], |payment| payment.failed_attempts > 0).await;
    service.payment_until(uncertain[2], |payment| payment.failed_attempts > 0).await;
    let (unknown, _) = order_created(CHARGED);
    let all = [&orders[..], &uncertain[..], &[unknown]].concat();
    let cancellations: Vec<_> = all.iter().map(|order| order_cancelled(*order)).collect();
    publish(&world.broker, &[cancellations.clone(), cancellations].concat());

    for (order, expected, charges) in [
        (orders[0], PaymentState::Refunded, 1),
        (orders[1], PaymentState::Refunded, 1),
        (orders[2], PaymentState::Refunded, 1),
        (orders[3], PaymentState::Failed, 0),
        (uncertain[0], PaymentState::Refunded, 1),
        (uncertain[1], PaymentState::Voided, 0),
        (uncertain[2], PaymentState::Refunded, 1),
    ] {
        let payment = service.payment_until(order, |payment| payment.state() == expected).await;
        assert_eq!(payment.refund_reference.is_empty(), expected != PaymentState::Refunded);
        assert_eq!((world.charges(order), world.refunds(order)), (charges, charges), "{payment:?}");
    }
    // An order that is cancelled before its payment was requested is voided, so a later request charges nothing.
    let records = read_until(&world.broker, TOPIC, |records| {
        records.iter().any(|record| record.header("ce_subject") == Some(unknown.to_string().as_str()))
    });
    let voided = records.iter().find(|record| record.header("ce_subject") == Some(unknown.to_string().as_str()));
    assert_eq!(voided.and_then(|record| record.header("ce_type")), Some("payments.events.v1.PaymentVoided"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_cannot_tell_waits_for_a_person() {
    let mut world = World::new();
    world.gateway_key_memory = Duration::from_secs(1);
    let service = world.start().await;
    let [charged, not_charged, cancelled] = world.order(&[FORGOTTEN; 3])[..] else { panic!("three orders") };
    for order in [charged, not_charged, cancelled] {
        let payment = service.payment_until(order, |payment| payment.state() == PaymentState::NeedsReview).await;
        assert_eq!(payment.review.expect("a review").code, "CHARGE_UNKNOWN");
    }
    publish(&world.broker, &[order_cancelled(cancelled)]);
    assert_eq!(listed(&service, PaymentState::NeedsReview).await.len(), 3);
    assert!(listed(&service, PaymentState::Completed).await.is_empty());

    let was_charged = || Outcome::Charged(Charged { gateway_reference: "ch_found".to_owned() });
    let payment = settle(&service, charged, was_charged()).await.expect("settled");
    assert_eq!((payment.state(), payment.gateway_reference.as_str()), (PaymentState::Completed, "ch_found"));
    assert_eq!(settle(&service, charged, was_charged()).await.expect("a repeat"), payment);
    let payment = settle(&service, not_charged, Outcome::NotCharged(NotCharged {})).await.expect("settled");
    assert_eq!(payment.failure.expect("a failure").code, "NOT_CHARGED");
    settle(&service, cancelled, was_charged()).await.expect("settled");
    service.payment_until(cancelled, |payment| payment.state() == PaymentState::Refunded).await;

    let refused = settle(&service, not_charged, was_charged()).await.expect_err("settled with another outcome before");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.get_details_error_info().expect("a reason").reason, "NOT_IN_REVIEW");
    assert!(listed(&service, PaymentState::NeedsReview).await.is_empty());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_is_refused_waits_for_a_person() {
    let world = World::new();
    let service = world.start().await;
    let order = world.order(&[REFUND_REFUSED])[0];
    // The order is charged first. A cancellation before that would void the payment.
    service.payment_until(order, |payment| payment.state() == PaymentState::Completed).await;
    publish(&world.broker, &[order_cancelled(order)]);
    let payment = service.payment_until(order, |payment| payment.state() == PaymentState::NeedsReview).await;
    assert_eq!(payment.review.expect("a review").code, "REFUND_REFUSED");
    let outcome = Outcome::Refunded(Refunded { gateway_reference: "bank transfer 17".to_owned() });
    let payment = settle(&service, order, outcome).await.expect("settled");
    assert_eq!((payment.state(), payment.refund_reference.as_str()), (PaymentState::Refunded, "bank transfer 17"));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_of_a_settlement_is_named() {
    let world = World::new();
    let service = world.start().await;
    let outcome = Some(Outcome::Charged(Charged::default()));
    let request = SettlePaymentRequest { order_id: "x".to_owned(), outcome, settled_by: "a\nb".to_owned() };
    let refused = service.grpc().await.settle_payment(request).await.expect_err("invalid");
    assert_eq!(fields(&refused), ["order_id", "charged.gateway_reference", "settled_by"]);
    let refused = service.grpc().await.settle_payment(SettlePaymentRequest::default()).await.expect_err("invalid");
    assert_eq!(fields(&refused), ["order_id", "settled_by", "outcome"]);
    let unknown = settle(&service, StreamId::generate(), Outcome::NotCharged(NotCharged {})).await;
    assert_eq!(unknown.expect_err("unknown").code(), Code::NotFound);
    let request = ListPaymentsRequest { page_size: -1, state: 77, ..Default::default() };
    let refused = service.grpc().await.list_payments(request).await.expect_err("invalid");
    assert_eq!(fields(&refused), ["state", "page_size"]);
    service.stop().await;
}

async fn settle(service: &Service, order: StreamId, outcome: Outcome) -> Result<Payment, Status> {
    let request =
        SettlePaymentRequest { order_id: order.to_string(), outcome: Some(outcome), settled_by: "jane".to_owned() };
    let answer = service.grpc().await.settle_payment(request).await?;
    Ok(answer.into_inner().payment.expect("a payment"))
}

/// Lists all payments in a state, page by page.
async fn listed(service: &Service, state: PaymentState) -> Vec<String> {
    let mut request = ListPaymentsRequest { page_size: 2, state: state.into(), ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = service.grpc().await.list_payments(request.clone()).await.expect("a page").into_inner();
        listed.extend(page.payments.into_iter().map(|payment| payment.order_id));
        if page.next_page_token.is_empty() {
            return listed;
        }
        request.page_token = page.next_page_token;
    }
}

fn fields(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request().expect("the fields");
    bad.field_violations.into_iter().map(|violation| violation.field).collect()
}
