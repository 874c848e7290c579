"""Everything that the lab's questions are about, one family a file."""
