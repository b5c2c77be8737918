"""What becomes of a question that the small model cannot answer well: redacted, shown, consented to, or kept here."""
