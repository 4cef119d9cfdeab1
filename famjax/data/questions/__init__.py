"""Tasks that ask: a prompt, right answers, and how an answer is scored."""
