"""What a node says on the wire, described for machines and for people.

`document` completes what FastStream generates of the app, with `messages` and their `examples`;
`text` writes it as YAML, and `page` shows it.
"""
