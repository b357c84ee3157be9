//! The guide: a page for each concept.
//!
//! Read the pages in this order. Together with the [first service](crate) they are enough to write one of your own.

#[doc = include_str!("../docs/aggregate.md")]
pub mod aggregate {}

#[doc = include_str!("../docs/store.md")]
pub mod store {}

#[doc = include_str!("../docs/read-tables.md")]
pub mod read_tables {}

#[doc = include_str!("../docs/relay.md")]
pub mod relay {}

#[doc = include_str!("../docs/inbox.md")]
pub mod inbox {}

#[doc = include_str!("../docs/testing.md")]
pub mod testing {}
