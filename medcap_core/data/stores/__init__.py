"""What is kept on disk: decoded images, features, captions."""
