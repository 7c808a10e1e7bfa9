"""What keeps an instructor's tests and a student's code in processes of their own, and lets the one call the other."""
