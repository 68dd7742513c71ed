//! What batch N reads, what it produced, that it is done: the commit protocol's logs.
