mod agreement;
mod generate;
mod planted;
mod script;
mod witness;
