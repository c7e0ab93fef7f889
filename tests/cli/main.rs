//! The program itself, on real databases, mounted and not.

mod back;
mod day;
mod mounts;
mod reading;
mod record;
mod runs;
mod stone;
mod terminal;
mod transactions;
mod unmounted;
