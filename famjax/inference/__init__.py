"""Reading and answering: prefill, decoding, sessions, snapshots."""
