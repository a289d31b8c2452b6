//! From a batch of received frames to verdicts.
