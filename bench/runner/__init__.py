"""What `bench/run` is made of: servers, rows, rounds, tables, plots."""
