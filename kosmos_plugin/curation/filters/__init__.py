"""What is dropped, and why: texts, captions, images and pages."""
