"""Results for people: pages, figures, tables on a terminal."""
