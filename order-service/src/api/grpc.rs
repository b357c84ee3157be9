//! The gRPC service `orders.v1.OrderService`.

use std::pin::Pin;

use contracts::proto::orders::v1::{
    CancelOrderRequest, CancelOrderResponse, CreateOrderRequest, CreateOrderResponse, GetOrderRequest,
    GetOrderResponse, ListOrderEventsRequest, ListOrderEventsResponse, ListOrdersRequest, ListOrdersResponse,
    WatchOrderRequest, WatchOrderResponse,
    order_service_server::{OrderService, OrderServiceServer},
};
use futures_util::{Stream, StreamExt as _};
use oncelog::{
    edge::{CallError, MAX_REQUEST},
    runtime::{Attribute, SpanKind, TraceContext},
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, metadata::MetadataMap, service::Routes};

use super::{Orders, SERVICE};

pub(super) fn services(orders: Orders) -> Routes {
    let service = OrderServiceServer::new(orders)
        .max_decoding_message_size(MAX_REQUEST)
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
        let (metadata, _, request) = request.into_parts();
        let order = self.traced("CreateOrder", &metadata, async |context| self.create(request, context).await).await?;
        Ok(Response::new(CreateOrderResponse { order: Some(order) }))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<CancelOrderResponse>, Status> {
        let (metadata, _, CancelOrderRequest { order_id }) = request.into_parts();
        let order =
            self.traced("CancelOrder", &metadata, async |context| self.cancel(&order_id, context).await).await?;
        Ok(Response::new(CancelOrderResponse { order: Some(order) }))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<GetOrderResponse>, Status> {
        let order = self.get(&request.get_ref().order_id).await.map_err(status)?;
        Ok(Response::new(GetOrderResponse { order: Some(order) }))
    }

    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let WatchOrderRequest { order_id, after_version } = request.into_inner();
        let orders = self.watch(&order_id, after_version).await.map_err(status)?;
        let answers = orders.map(|order| Ok(WatchOrderResponse { order: Some(order.map_err(status)?) }));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_orders(&self, request: Request<ListOrdersRequest>) -> Result<Response<ListOrdersResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await.map_err(status)?))
    }

    async fn list_order_events(
        &self,
        request: Request<ListOrderEventsRequest>,
    ) -> Result<Response<ListOrderEventsResponse>, Status> {
        let events = self.events(&request.get_ref().order_id).await.map_err(status)?;
        Ok(Response::new(ListOrderEventsResponse { events }))
    }
}

impl Orders {
    /// Makes a call that changes something, within a span. The trace of its events continues from that span.
    async fn traced<T>(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        call: impl AsyncFnOnce(Option<TraceContext>) -> Result<T, CallError>,
    ) -> Result<T, Status> {
        let before = TraceContext::of(metadata.as_ref());
        let attributes = || {
            vec![
                Attribute::new("rpc.system", "grpc"),
                Attribute::new("rpc.service", "orders.v1.OrderService"),
                Attribute::new("rpc.method", method),
            ]
        };
        let name = format!("orders.v1.OrderService/{method}");
        let mut span = self.spans.start(SpanKind::Server, name, before.as_ref(), attributes);
        let context = span.trace(before.as_ref());
        call(context).await.inspect_err(|error| span.fail(error)).map_err(status)
    }
}

fn status(error: CallError) -> Status {
    error.into_status(SERVICE)
}
