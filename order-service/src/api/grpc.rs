//! `orders.v1.OrderService`.

use event_sourcing::{
    proto::orders::v1::{
        CreateOrderRequest, CreateOrderResponse, GetOrderRequest, GetOrderResponse,
        order_service_server::{OrderService, OrderServiceServer},
    },
    service::{
        spans::{Attribute, SpanKind},
        trace_context::traceparent,
    },
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, service::Routes};

use super::{Orders, SERVICE};

pub(super) fn services(orders: Orders) -> Routes {
    let service = OrderServiceServer::new(orders)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    Routes::new(service)
}

#[tonic::async_trait]
impl OrderService for Orders {
    async fn create_order(
        &self,
        request: Request<CreateOrderRequest>,
    ) -> Result<Response<CreateOrderResponse>, Status> {
        let before = traceparent(request.metadata().as_ref());
        let attributes = || {
            vec![
                Attribute::new("rpc.system", "grpc"),
                Attribute::new("rpc.service", "orders.v1.OrderService"),
                Attribute::new("rpc.method", "CreateOrder"),
            ]
        };
        let name = "orders.v1.OrderService/CreateOrder";
        let mut span = self.spans.start(SpanKind::Server, name, before.as_deref(), attributes);
        let context = span.traceparent(before.as_deref());
        let order = self.create(request.into_inner(), context).await.map_err(|error| {
            span.fail(&error);
            error.into_status(SERVICE)
        })?;
        Ok(Response::new(CreateOrderResponse { order: Some(order) }))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<GetOrderResponse>, Status> {
        let order = self.get(&request.get_ref().order_id).await.map_err(|error| error.into_status(SERVICE))?;
        Ok(Response::new(GetOrderResponse { order: Some(order) }))
    }
}
