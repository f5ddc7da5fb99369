"""What users of other task frameworks have lost, got twice or waited for in vain, and that it does not happen here."""
