"""Tables, each built once and rendered to a terminal, HTML, Markdown or CSV."""
