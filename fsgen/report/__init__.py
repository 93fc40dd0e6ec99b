"""What a person looks at first: the headline table, the figures, and one page that tells the story of a run."""
