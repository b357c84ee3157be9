//! The gRPC service `payments.v1.PaymentService`.

use contracts::proto::payments::v1::{
    self as message, GetPaymentRequest, GetPaymentResponse, ListPaymentsRequest, ListPaymentsResponse, PaymentState,
    SettlePaymentRequest, SettlePaymentResponse,
    payment_service_server::{PaymentService, PaymentServiceServer},
    settle_payment_request::Outcome,
};
use oncelog::{
    aggregate::{Cause, Listing, Loaded, Streams},
    app::Service as _,
    edge::{CallError, MAX_REQUEST, Page, Place, Violation},
    event::StreamId,
    runtime::TraceContext,
    store::StoredRow,
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, service::Routes};

use crate::{
    payment::{Command, Decline, Payment, Rejection, Settlement, State},
    payments_table::{self, PaymentsTable, Waiting},
};

/// The name of the service in errors.
const SERVICE: &str = crate::PaymentService::INFO.name;

/// Returns the routes of the service.
pub(crate) fn routes(streams: Streams<PaymentsTable>) -> Routes {
    let service = PaymentServiceServer::new(Payments { streams })
        .max_decoding_message_size(MAX_REQUEST)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Routes::new(service)
}

struct Payments {
    streams: Streams<PaymentsTable>,
}

#[tonic::async_trait]
impl PaymentService for Payments {
    async fn get_payment(&self, request: Request<GetPaymentRequest>) -> Result<Response<GetPaymentResponse>, Status> {
        let payment = self.get(&request.get_ref().order_id).await.map_err(|error| error.into_status(SERVICE))?;
        Ok(Response::new(GetPaymentResponse { payment: Some(payment) }))
    }

    async fn list_payments(
        &self,
        request: Request<ListPaymentsRequest>,
    ) -> Result<Response<ListPaymentsResponse>, Status> {
        let page = self.list(request.into_inner()).await.map_err(|error| error.into_status(SERVICE))?;
        Ok(Response::new(page))
    }

    async fn settle_payment(
        &self,
        request: Request<SettlePaymentRequest>,
    ) -> Result<Response<SettlePaymentResponse>, Status> {
        let cause = Cause { event: None, trace: TraceContext::of(request.metadata().as_ref()) };
        let payment = self.settle(request.into_inner(), &cause).await.map_err(|error| error.into_status(SERVICE))?;
        Ok(Response::new(SettlePaymentResponse { payment: Some(payment) }))
    }
}

impl Payments {
    async fn get(&self, order_id: &str) -> Result<message::Payment, CallError> {
        let id = order(order_id)?;
        let (payment, row) = self.streams.load_with_row(id).await?;
        to_message(id, payment, row.as_ref()).ok_or_else(|| unknown(id))
    }

    async fn list(&self, request: ListPaymentsRequest) -> Result<ListPaymentsResponse, CallError> {
        let mut violations = Vec::new();
        let state = match PaymentState::try_from(request.state) {
            Ok(PaymentState::Unspecified) => None,
            Ok(state) => state.as_str_name().strip_prefix("PAYMENT_STATE_"),
            Err(_unknown) => {
                violations.push(Violation::new("state", "must be a state of payments"));
                None
            }
        };
        let filter = state.unwrap_or_default().to_owned();
        let page = match Page::parse(request.page_size, &request.page_token, filter) {
            Ok(page) if violations.is_empty() => page,
            Ok(_) => return Err(CallError::Invalid(violations)),
            Err(of_the_page) => return Err(CallError::Invalid([violations, of_the_page].concat())),
        };
        let listing = self.streams.list(payments_table::page(state, &page)).await?;
        let Listing { entries: mut payments, is_cut } = listing;
        let place =
            |(row, payment): &(StoredRow, Loaded<Payment>)| Place { create_time: payment.create_time, id: row.stream };
        let next_page_token = page.cut(&mut payments, is_cut, place);
        let payments = payments.into_iter().filter_map(|(row, payment)| to_message(row.stream, payment, Some(&row)));
        Ok(ListPaymentsResponse { payments: payments.collect(), next_page_token })
    }

    async fn settle(&self, request: SettlePaymentRequest, cause: &Cause) -> Result<message::Payment, CallError> {
        let (id, command) = settlement(request).map_err(CallError::Invalid)?;
        let settled = self.streams.execute(id, &command, cause).await;
        let payment = settled.map_err(|error| {
            CallError::of(error, |rejection| match rejection {
                Rejection::Unknown => unknown(id),
                Rejection::NotInReview => CallError::Precondition {
                    reason: "NOT_IN_REVIEW",
                    message: "the payment needs no review, or needs another outcome".into(),
                },
                // Only commands of an order and answers of the gateway are rejected for these reasons.
                Rejection::OtherAmount { .. } | Rejection::Contradicted => CallError::Internal,
            })
        })?;
        tracing::info!(order = %id, "a person settled a payment");
        to_message(id, payment, None).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: StreamId) -> CallError {
    CallError::NotFound { what: "payment of order", id: id.to_string() }
}

fn order(order_id: &str) -> Result<StreamId, Violation> {
    Violation::stream_id("order_id", order_id)
}

/// Reads the outcome that a person found out. Returns a violation for every wrong field.
fn settlement(request: SettlePaymentRequest) -> Result<(StreamId, Command), Vec<Violation>> {
    let mut violations = Vec::new();
    let id = order(&request.order_id).map_err(|violation| violations.push(violation));
    let mut text = |field: &str, text: String| {
        Violation::text(field, text, 64).unwrap_or_else(|violation| {
            violations.push(violation);
            String::new()
        })
    };
    let settlement = match request.outcome {
        None => None,
        Some(Outcome::Charged(charged)) => {
            Some(Settlement::Charged { reference: text("charged.gateway_reference", charged.gateway_reference) })
        }
        Some(Outcome::NotCharged(_)) => Some(Settlement::NotCharged),
        Some(Outcome::Refunded(refunded)) => {
            Some(Settlement::Refunded { reference: text("refunded.gateway_reference", refunded.gateway_reference) })
        }
    };
    let by = text("settled_by", request.settled_by);
    if settlement.is_none() {
        violations.push(Violation::new("outcome", "must be one of charged, not_charged and refunded"));
    }
    match (id, settlement) {
        (Ok(id), Some(settlement)) if violations.is_empty() => Ok((id, Command::Settle { settlement, by })),
        _ => Err(violations),
    }
}

/// Returns the payment as callers see it, or `None` if it was never requested.
fn to_message(id: StreamId, payment: Loaded<Payment>, row: Option<&StoredRow>) -> Option<message::Payment> {
    let Payment::Known { money, state, .. } = payment.state else { return None };
    let mut shown = message::Payment {
        order_id: id.to_string(),
        amount: money.amount(),
        currency_code: money.currency_code().to_owned(),
        create_time: Some(payment.create_time.into()),
        update_time: Some(payment.update_time.into()),
        gateway_reference: state.charge().cloned().unwrap_or_default(),
        ..message::Payment::default()
    };
    if let Some(Waiting { failed_attempts: failed @ 1.., due, .. }) = row.and_then(Waiting::of) {
        shown.failed_attempts = i32::try_from(failed).unwrap_or(i32::MAX);
        shown.next_attempt_time = Some(due.into());
    }
    let state = match state {
        State::Requested => PaymentState::Requested,
        State::Completed { .. } => PaymentState::Completed,
        State::Failed(Decline { code, message }) => {
            shown.failure = Some(message::PaymentFailure { code, message });
            PaymentState::Failed
        }
        State::Cancelling { .. } => PaymentState::Cancelling,
        State::Voided => PaymentState::Voided,
        State::Refunded { refund, .. } => {
            shown.refund_reference = refund;
            PaymentState::Refunded
        }
        State::NeedsReview { review, .. } => {
            let (code, message) = (review.code().to_owned(), review.message().to_owned());
            shown.review = Some(message::PaymentReview { code, message });
            PaymentState::NeedsReview
        }
    };
    shown.set_state(state);
    Some(shown)
}
