"""The comparison of tuned models with their base, by judges that training never saw: the evidence."""
