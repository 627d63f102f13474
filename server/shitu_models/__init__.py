"""What each model is: tensors, preprocessing, boxes and Triton configuration. Imports no other part of shitu and no Paddle."""
