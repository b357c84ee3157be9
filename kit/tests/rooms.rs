//! The rooms of the kit, and the direction in which they may depend on each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms, from the lowest to the highest. Each may use the ones before it.
const ROOMS: [&str; 12] = [
    "runtime",
    "event",
    "store",
    "aggregate",
    "kafka",
    "relay",
    "inbox",
    "edge",
    "operations",
    "embedded",
    "app",
    "testing",
];

#[test]
fn no_room_depends_on_a_later_one() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut upward = Vec::new();
    let mut seen = Vec::new();
    for file in files(&source) {
        let place = file.strip_prefix(&source).expect("it is below").display().to_string();
        let room = place.split(['/', '.']).next().unwrap_or_default();
        let Some(floor) = ROOMS.iter().position(|known| *known == room) else { continue };
        seen.push(floor);
        let text = fs::read_to_string(&file).expect("reads");
        for (later, at) in ROOMS.iter().enumerate().skip(floor + 1).flat_map(|(_, later)| uses(&text, later)) {
            upward.push(format!("{place}:{at} uses {later}"));
        }
    }
    assert!((0..ROOMS.len()).all(|floor| seen.contains(&floor)), "a room has no file: is its name still right?");
    assert!(upward.is_empty(), "dependencies on later rooms:\n{}", upward.join("\n"));
}

/// The lines that name a room of this crate.
fn uses<'a>(text: &str, room: &'a str) -> Vec<(&'a str, usize)> {
    let mut found = Vec::new();
    let mut is_in_use = false;
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        let group = code.split_once("use crate::{").map(|(_, group)| group);
        is_in_use |= group.is_some();
        let group = if is_in_use { group.unwrap_or(code) } else { "" };
        // Rooms stand at the first level of a group.
        let mut depth = 0;
        let mut first_level = String::new();
        for character in group.chars() {
            depth += i32::from(character == '{') - i32::from(character == '}');
            if depth == 0 {
                first_level.push(character);
            }
        }
        let named = first_level.split(',').map(|path| path.trim_start().split("::").next().unwrap_or_default().trim());
        let is_at_first_level =
            code.starts_with("    ") && !code.starts_with("        ") || code.contains("use crate::{");
        let is_in_group = is_at_first_level && named.into_iter().any(|named| named == room);
        if is_in_group || code.contains(&format!("crate::{room}::")) || code.contains(&format!("use crate::{room};")) {
            found.push((room, number));
        }
        is_in_use &= !code.contains("};");
    }
    found
}

#[test]
fn every_form_of_use_is_seen() {
    for text in [
        "use crate::app::Config;",
        "use crate::app;",
        "pub use crate::{app::Config, edge::Page};",
        "use crate::{edge::Page, app::{Config, Info}};",
        "use crate::{\n    edge::Page,\n    app::{\n        Config,\n    },\n};",
        "    let x = crate::app::run();",
    ] {
        assert_eq!(uses(text, "app").len(), 1, "{text}");
    }
    assert!(uses("use crate::{\n    edge::{\n        app::Other,\n    },\n};", "app").is_empty(), "another app");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("reads").map(|entry| entry.expect("reads").path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(directories.iter().flat_map(|directory| self::files(directory))).collect()
}
