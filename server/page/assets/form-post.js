// Sends the form that carries an authorization response to the client
// (OAuth 2.0 Form Post Response Mode). Without scripts the page has a button.
document.getElementById("form-post").submit();
