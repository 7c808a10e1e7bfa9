"""Asks for the sides of a rectangle and prints its area."""

import sys

from geometry import area


def greet(name):
    print(f"Hello, {name}!")


def ask_name():
    return input("What is your name? ")


def main():
    try:
        width, height = int(input("width: ")), int(input("height: "))
    except ValueError:
        print("please give a number", file=sys.stderr)
        sys.exit(2)
    print("\narea:", area(width, height))


if __name__ == "__main__":
    main()
