"""Reads table files: text, Parquet, Excel and JSON lines; decides what each column is."""
