"""What a person looks at first: the headline table, the figures, and a page that tells a run's story."""
