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
        // In `use crate::{ … }`, rustfmt gives each room a line of its own at the first level.
        let is_named =
            code.contains(&format!("crate::{room}::")) || (is_in_use && code.starts_with(&format!("    {room}::")));
        is_in_use = code.starts_with("use crate::{") || (is_in_use && !code.starts_with("};"));
        if is_named || code.trim_end() == format!("use crate::{room};") {
            found.push((room, number));
        }
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("reads").map(|entry| entry.expect("reads").path());
    let (directories, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.into_iter().chain(directories.iter().flat_map(|directory| self::files(directory))).collect()
}
