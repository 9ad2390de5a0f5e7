"""Results in readable form: HTML pages, figures and tables in the terminal."""
