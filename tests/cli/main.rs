//! The program itself, on real databases, mounted and not.

mod back;
mod day;
mod mounts;
mod reading;
mod stone;
mod transactions;
mod unmounted;
