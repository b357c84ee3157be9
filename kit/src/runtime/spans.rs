//! OpenTelemetry spans. All spans of one order, from all services, form one tree.
//!
//! Spans are exported by OTLP (gRPC) if a standard variable names an endpoint: `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`. Without one, no span is made, and this module costs nothing. The context
//! travels as `traceparent`: from the caller into the store, from there to the topic, and so to the next service. Names
//! and attributes follow OpenTelemetry's conventions for RPC, HTTP and messaging.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{Span as _, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

pub use opentelemetry::{KeyValue as Attribute, trace::SpanKind};

use crate::runtime::{failure::Failure, trace_context::TraceContext};

/// The timeout for the export of the last spans when the service stops.
const FLUSH: Duration = Duration::from_millis(500);

/// Makes the spans of one service. Clones share the exporter.
#[derive(Clone, Default)]
pub struct Spans(Option<Exporting>);

#[derive(Clone)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Spans {
    /// Creates the exporter that the standard variables describe, if any. Must be called on a tokio runtime.
    pub fn from_env(service: &'static str) -> Result<Self, Failure> {
        if !is_configured() {
            return Ok(Self::default());
        }
        let wrong = |error| Failure::configuration(format!("the trace exporter cannot start: {error}"));
        let exporter = SpanExporter::builder().with_tonic().build().map_err(wrong)?;
        let resource = match variable("OTEL_SERVICE_NAME") {
            Some(_) => Resource::builder(),
            None => Resource::builder().with_service_name(service),
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let tracer = provider.tracer("event-sourcing");
        Ok(Self(Some(Exporting { provider, tracer })))
    }

    /// Starts a span as a child of `parent`. Without a parent, it is the root of a new tree.
    pub fn start(
        &self,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        parent: Option<&TraceContext>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Span {
        Span(self.0.as_ref().map(|Exporting { tracer, .. }| {
            let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes());
            tracer.build_with_context(builder, &context(parent))
        }))
    }

    /// Adds a span that ends now. Without a parent, no span is added.
    pub fn add(
        &self,
        kind: SpanKind,
        name: impl FnOnce() -> String,
        parent: Option<&TraceContext>,
        began: SystemTime,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) {
        let (Some(Exporting { tracer, .. }), Some(_)) = (&self.0, parent) else { return };
        let builder = tracer.span_builder(name()).with_kind(kind).with_start_time(began).with_attributes(attributes());
        tracer.build_with_context(builder, &context(parent)).end();
    }

    /// Exports the spans that are left.
    pub fn stop(&self) {
        if let Some(Exporting { provider, .. }) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::debug!(error = %error, "the last spans were not exported");
        }
    }
}

/// A span that ends when it is dropped. Empty if no spans are exported.
#[derive(Debug)]
pub struct Span(Option<opentelemetry_sdk::trace::Span>);

impl Span {
    /// Returns the context for actions within the span. It is the context of the span, or `before` if no spans are
    /// exported.
    pub fn trace(&self, before: Option<&TraceContext>) -> Option<TraceContext> {
        let Some(span) = &self.0 else { return before.cloned() };
        let mut carrier = Carrier::default();
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        TraceContextPropagator::new().inject_context(&context, &mut carrier);
        TraceContext::parse(carrier.get("traceparent")?, carrier.get("tracestate"))
    }

    /// Marks the span as failed.
    pub fn fail(&mut self, problem: impl std::fmt::Display) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(problem.to_string()));
        }
    }
}

/// Headers in the form that OpenTelemetry's propagator reads and writes.
#[derive(Default)]
struct Carrier(HashMap<String, String>);

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key.to_owned(), value);
    }
}

fn context(trace: Option<&TraceContext>) -> Context {
    let headers = trace.into_iter().flat_map(TraceContext::headers);
    let carrier = Carrier(headers.map(|(name, value)| (name.to_owned(), value.into_owned())).collect());
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

fn is_configured() -> bool {
    let endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    endpoints.iter().any(|name| variable(name).is_some())
        && variable("OTEL_SDK_DISABLED").is_none_or(|value| !value.eq_ignore_ascii_case("true"))
        && variable("OTEL_TRACES_EXPORTER").is_none_or(|value| value != "none")
}

#[expect(clippy::disallowed_methods, reason = "the exporter's variables are a standard of its own, and not flags")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
