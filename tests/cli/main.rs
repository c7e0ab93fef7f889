//! The program itself, on real databases, mounted and not.

mod mounts;
mod reading;
mod stone;
mod unmounted;
