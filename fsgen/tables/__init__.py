"""What is stored and queried: Parquet files that appear whole, metrics files, and SQL views over them.

No module here knows what a number means.
"""
