"""See `compare`."""

from benchmarks.search_efficiency.compare import main

if __name__ == "__main__":
    main()
