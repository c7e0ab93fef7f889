//! A decorator that injects faults, for tests.
