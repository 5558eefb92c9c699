"""What tests across several packages stand on, and no single package could hold."""
