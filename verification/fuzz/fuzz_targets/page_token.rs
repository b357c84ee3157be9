//! Parses arbitrary text as a page token. The result is an error or a place to resume from, and that place survives a
//! round trip.

#![no_main]

use oncelog::edge::Page;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i32, &str, &str)| {
    let (size, token, filter) = input;
    if let Ok(page) = Page::parse(size, token, filter.to_owned()) {
        assert!((1..=1000).contains(&page.size));
        if let Some(place) = page.after {
            let mut two = vec![place; page.size + 1];
            let next = page.cut(&mut two, false, |place| *place);
            assert_eq!(Page::parse(size, &next, filter.to_owned()).expect("the token is valid").after, Some(place));
        }
    }
});
