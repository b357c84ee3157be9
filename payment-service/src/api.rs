//! `payments.v1.PaymentService`.

use axum::Router;
use event_sourcing::{
    aggregate,
    event::StreamId,
    proto::payments::{
        DESCRIPTORS,
        v1::{
            self as message, GetPaymentRequest, GetPaymentResponse,
            payment_service_server::{PaymentService, PaymentServiceServer},
        },
    },
    service::{
        call_error::{CallError, Violation},
        health::Health,
        listener,
        metrics::Metrics,
    },
    store::Store,
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, service::Routes};

use crate::{
    SERVICE,
    payment::{Decline, Payment, State},
    payments_table::{self, Waiting},
};

/// Every route of the service.
pub(crate) fn routes(store: Store, health: &Health, metrics: &Metrics) -> Router {
    let service = PaymentServiceServer::new(Payments { store })
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    listener::one_port(Routes::new(service), DESCRIPTORS, Router::new(), health, metrics)
}

struct Payments {
    store: Store,
}

#[tonic::async_trait]
impl PaymentService for Payments {
    async fn get_payment(&self, request: Request<GetPaymentRequest>) -> Result<Response<GetPaymentResponse>, Status> {
        let payment = self.get(&request.get_ref().order_id).await.map_err(|error| error.into_status(SERVICE))?;
        Ok(Response::new(GetPaymentResponse { payment: Some(payment) }))
    }
}

impl Payments {
    async fn get(&self, order_id: &str) -> Result<message::Payment, CallError> {
        let malformed = || Violation::new("order_id", "must be a UUID of 36 characters in lower case");
        let id = StreamId::parse(order_id).ok_or_else(|| CallError::Invalid(vec![malformed()]))?;
        let payment = aggregate::load::<Payment>(&self.store, id).await?;
        let Payment::Known { money, state, .. } = payment.state else {
            return Err(CallError::NotFound { what: "payment of order", id: order_id.to_owned() });
        };
        let mut shown = message::Payment {
            order_id: order_id.to_owned(),
            amount: money.amount(),
            currency_code: money.currency_code().to_owned(),
            create_time: Some(payment.create_time.into()),
            update_time: Some(payment.update_time.into()),
            ..message::Payment::default()
        };
        match state {
            State::Requested => {
                shown.set_state(message::PaymentState::Requested);
                let row = self.store.read(move |table| payments_table::waiting_for(table, id)).await?;
                if let Some(Waiting { failed_attempts: failed @ 1.., due, .. }) = row {
                    shown.failed_attempts = i32::try_from(failed).unwrap_or(i32::MAX);
                    shown.next_attempt_time = Some(due.into());
                }
            }
            State::Completed { gateway_reference } => {
                shown.set_state(message::PaymentState::Completed);
                shown.gateway_reference = gateway_reference;
            }
            State::Failed(Decline { code, message }) => {
                shown.set_state(message::PaymentState::Failed);
                shown.failure = Some(message::PaymentFailure { code, message });
            }
        }
        Ok(shown)
    }
}
