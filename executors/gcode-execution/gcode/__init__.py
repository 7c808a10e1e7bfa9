"""A 3D printer that prints nothing: reads G-code, moves a point, and tells what a real one would not survive."""
