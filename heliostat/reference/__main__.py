"""Write the schemas and the pages of the reference."""

from heliostat.reference.files import write

if __name__ == "__main__":
    write()
