//! What several test binaries share: harnesses, peers, conditions to wait for.
