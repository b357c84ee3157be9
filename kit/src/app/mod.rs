//! The application: the only room that names every other one.

pub mod cli;
