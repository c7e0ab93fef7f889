//! The program itself, on real databases, mounted and not.

mod back;
mod mounts;
mod reading;
mod stone;
mod transactions;
mod unmounted;
