"""Stage 'logits': the raw logits of each member, cached on disk."""
