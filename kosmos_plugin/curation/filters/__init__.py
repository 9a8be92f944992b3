"""What is dropped, and why: text, captions, images and pages."""
