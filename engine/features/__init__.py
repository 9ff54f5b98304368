"""Features: order books, and the vector that models and strategies see."""
