//! Tokens of pages: any text is a token or an error, and a token that is one goes on where it says.

#![no_main]

use oncelog::edge::page::Page;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i32, &str, &str)| {
    let (size, token, filter) = input;
    if let Ok(page) = Page::parse(size, token, filter.to_owned()) {
        assert!((1..=1000).contains(&page.size));
        if let Some(place) = page.after {
            let mut two = vec![place; page.size + 1];
            let next = page.cut(&mut two, |place| *place);
            assert_eq!(Page::parse(size, &next, filter.to_owned()).expect("our own").after, Some(place));
        }
    }
});
