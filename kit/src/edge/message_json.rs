//! Messages of the contracts as JSON, for people: amounts are numbers, field names as the APIs have them.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

/// How one type of message is shown.
#[derive(Clone, Debug)]
pub struct MessageJson(MessageDescriptor);

impl MessageJson {
    /// For the message of this full name, as the build described it.
    ///
    /// # Panics
    /// If the descriptors are not what the build made.
    pub fn of(message: &str, descriptors: &[u8]) -> Self {
        let pool = DescriptorPool::decode(descriptors).expect("the descriptors were made by the build");
        Self(pool.get_message_by_name(message).expect("the message is among them"))
    }

    /// An encoded message; `None` if it is none.
    pub fn show(&self, payload: &[u8]) -> Option<Value> {
        Some(value(&self.decode(payload)?))
    }

    /// What its `oneof` holds, alone.
    pub(crate) fn show_what_happened(&self, payload: &[u8]) -> Option<Value> {
        let message = self.decode(payload)?;
        let (_, happened) = message.fields().find(|(field, _)| field.containing_oneof().is_some())?;
        happened.as_message().map(value)
    }

    fn decode(&self, payload: &[u8]) -> Option<DynamicMessage> {
        DynamicMessage::decode(self.0.clone(), payload).ok()
    }
}

fn value(message: &DynamicMessage) -> Value {
    let options = SerializeOptions::new().stringify_64_bit_integers(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or(Value::Null)
}
