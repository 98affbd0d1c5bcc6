"""What several tests share: data, models made by hand, servers."""
