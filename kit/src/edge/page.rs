//! Pages of a list, newest first (AIP-158). A page token names the last entry of its page, so that every page costs the
//! same to read.

use std::time::SystemTime;

use uuid::Uuid;

use crate::{
    edge::call_error::Violation,
    event::{StreamId, from_micros, to_micros},
    store::{Column, Query},
};

/// The size of a page if the caller gives none.
const DEFAULT_SIZE: usize = 50;

/// The largest size of a page.
const MAX_SIZE: usize = 1000;

/// The namespace of the UUIDs that identify filters in page tokens.
const FILTERS: Uuid = Uuid::from_u128(0x1d83_0c3c_2f5f_4d8e_8f0b_6a1c_95d2_77e4);

/// The place of an entry in its list, which is ordered by time, and by id where times are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The creation time, to the microsecond.
    pub create_time: SystemTime,
    /// The stream that the entry describes.
    pub id: StreamId,
}

/// A caller's request for one page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The largest number of entries.
    pub size: usize,
    /// The last entry of the previous page.
    pub after: Option<Place>,
    filter: String,
}

impl Page {
    /// Reads `page_size` and `page_token`. A token is valid only for the filter that it was made for. `filter` is any
    /// text that differs between filters.
    pub fn parse(page_size: i32, page_token: &str, filter: String) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let size = match usize::try_from(page_size) {
            Ok(0) => DEFAULT_SIZE,
            Ok(size) => size.min(MAX_SIZE),
            Err(_negative) => {
                violations.push(Violation::new("page_size", "must not be negative"));
                0
            }
        };
        let after = match page_token {
            "" => None,
            token => match parse(token) {
                Some((place, made_for)) if made_for == digest(&filter) => Some(place),
                Some(_) => {
                    violations.push(Violation::new("page_token", "belongs to a list with another filter"));
                    None
                }
                None => {
                    violations.push(Violation::new("page_token", "must be empty, or the next_page_token of an answer"));
                    None
                }
            },
        };
        if violations.is_empty() { Ok(Self { size, after, filter }) } else { Err(violations) }
    }

    /// Returns the query for this page, by the column of the creation time. It selects one row more than the page
    /// holds, which shows whether there is a next page.
    pub fn query(&self, create_time: Column) -> Query {
        let query = Query::all().newest_first(create_time).limit(self.size + 1);
        match self.after {
            Some(Place { create_time, id }) => query.after(create_time, id),
            None => query,
        }
    }

    /// Cuts the result of [`query`](Self::query) to the page, and returns the token of the next page. The token is
    /// empty on the last page.
    ///
    /// `is_cut` is true if the list was cut before for its size, so that there are more entries.
    pub fn cut<T>(&self, entries: &mut Vec<T>, is_cut: bool, place: impl Fn(&T) -> Place) -> String {
        if entries.len() <= self.size && !is_cut {
            return String::new();
        }
        entries.truncate(self.size);
        entries.last().map(|last| token(place(last), &self.filter)).unwrap_or_default()
    }
}

fn token(place: Place, filter: &str) -> String {
    format!("{:016x}{}{:016x}", to_micros(place.create_time), place.id.0.simple(), digest(filter))
}

fn parse(token: &str) -> Option<(Place, u64)> {
    if token.len() != 64 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let micros = i64::from_str_radix(token.get(..16)?, 16).ok()?;
    let id = Uuid::try_parse(token.get(16..48)?).ok()?;
    let filter = u64::from_str_radix(token.get(48..)?, 16).ok()?;
    Some((Place { create_time: from_micros(micros), id: StreamId(id) }, filter))
}

fn digest(filter: &str) -> u64 {
    Uuid::new_v5(&FILTERS, filter.as_bytes()).as_u64_pair().0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::now;

    fn fields(page: Result<Page, Vec<Violation>>) -> Vec<String> {
        page.expect_err("wrong").into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn the_next_page_begins_after_the_last_entry() {
        let page = Page::parse(2, "", "state=PAID".to_owned()).expect("valid");
        let places: Vec<_> =
            std::iter::repeat_with(|| Place { create_time: now(), id: StreamId::generate() }).take(3).collect();
        let mut entries = places.clone();
        let token = page.cut(&mut entries, false, |place| *place);
        assert_eq!(entries, places[..2]);
        let next = Page::parse(2, &token, "state=PAID".to_owned()).expect("valid");
        assert_eq!(next.after, Some(places[1]));
        assert_eq!(page.cut(&mut entries, false, |place| *place), "", "it was the last page");
        assert_eq!(fields(Page::parse(2, &token, "state=CREATED".to_owned())), ["page_token"]);
    }

    #[test]
    fn sizes_have_a_default_and_a_limit() {
        let size = |size| Page::parse(size, "", String::new()).expect("valid").size;
        assert_eq!([size(0), size(1), size(1000), size(i32::MAX)], [50, 1, 1000, 1000]);
        assert_eq!(fields(Page::parse(-1, "x", String::new())), ["page_size", "page_token"]);
    }

    proptest! {
        #[test]
        fn no_token_makes_the_reader_panic(token in any::<String>(), hex in "[0-9a-f]{64}") {
            let _ = Page::parse(1, &token, String::new());
            let _ = parse(&hex);
        }
    }
}
