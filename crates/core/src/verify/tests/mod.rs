mod losing;
mod model;
mod remembering;
