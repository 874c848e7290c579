"""Messages to token ids, with a source and a trainable flag for every token."""
