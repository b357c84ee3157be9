//! Formats messages of the contracts as JSON for people. Amounts are numbers, and field names are those of the APIs.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

/// Formats one type of message.
#[derive(Clone, Debug)]
pub struct MessageJson(Option<MessageDescriptor>);

impl MessageJson {
    /// Creates the formatter of the message with this full name. `descriptors` come from the build; if they are empty,
    /// no message is formatted.
    ///
    /// # Panics
    /// If the message is not among the descriptors.
    pub fn of(message: &str, descriptors: &[u8]) -> Self {
        if descriptors.is_empty() {
            return Self(None);
        }
        let pool = DescriptorPool::decode(descriptors).expect("the descriptors were made by the build");
        Self(Some(pool.get_message_by_name(message).expect("the message is among them")))
    }

    /// Returns an encoded message as JSON, or `None` if it cannot be decoded.
    pub fn show(&self, payload: &[u8]) -> Option<Value> {
        Some(value(&self.decode(payload)?))
    }

    /// Returns only the event inside a message, which is in its `oneof`.
    pub(crate) fn show_what_happened(&self, payload: &[u8]) -> Option<Value> {
        let message = self.decode(payload)?;
        let (_, happened) = message.fields().find(|(field, _)| field.containing_oneof().is_some())?;
        happened.as_message().map(value)
    }

    fn decode(&self, payload: &[u8]) -> Option<DynamicMessage> {
        DynamicMessage::decode(self.0.clone()?, payload).ok()
    }
}

fn value(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().stringify_64_bit_integers(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or(Value::Null)
}
